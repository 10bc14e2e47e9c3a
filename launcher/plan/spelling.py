"""Numbers for people: three digits and a unit."""

_DECIMAL = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIMES = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (120, 60, "min"))


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
    """`3.5 days`, `12 h`, `4.0 min` or `52 s`."""
    for least, size, unit in _TIMES:
        if seconds >= least:
            return f"{_digits(seconds / size)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
