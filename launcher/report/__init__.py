"""`coterie report`: what runs wrote, as one page that opens anywhere.

`figures` draws on the canvas of `theme`, `tables` and `sentences` say the same in numbers and words, `sections` brings
them together, `batches` fetches the pairs to look at, `page` fills in `page.html.j2`. The page holds no script and
loads nothing: pictures are inline SVG, whose colours are variables of `page.css`, so that one picture serves a light
screen, a dark one and paper.
"""
