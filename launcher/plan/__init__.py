"""`coterie plan`: what a run would need and cost, counted from its configuration before anything starts.

`data` looks at the shards or takes what the configuration says of them, `hardware` says what there is to run on; the
others are pure functions of these: `disk`, `memory`, `work`. `estimate` puts them together, `fit` says what does not
fit, `table` spells it out.

Nothing here starts Ray, imports torch or writes a file.
"""
