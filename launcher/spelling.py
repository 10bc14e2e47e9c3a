"""Numbers for people: a few digits and a unit."""

_DECIMAL = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def spell_bytes(count: float) -> str:
    """Decimal, as disks and GPUs are sold: `6.14 TB`."""
    return spell(count, "B")


def spell_flops(count: float) -> str:
    """Operations: `1.32 PFLOP`; a dash where none were counted."""
    return spell(count, "FLOP") if count else "-"


def spell_count(count: float) -> str:
    """`2.00 G`, and small numbers as they are."""
    return spell(count, "").rstrip() if count >= 1e6 else f"{count:,.0f}"


def spell(count: float, unit: str) -> str:
    """Three digits, and the unit with its prefix."""
    for size, prefix in _DECIMAL:
        if count >= size:
            return f"{_digits(count / size)} {prefix}{unit}"
    return f"{count:.0f} {unit}"


def spell_seconds(seconds: float) -> str:
    """`48.2 s`, `12 min 5 s`, `3 h 20 min` or `4 days 6 h`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
