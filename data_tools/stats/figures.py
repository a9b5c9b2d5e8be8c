"""How numbers are told, short."""


def compact(number: float) -> str:
    """A number in three digits or so: 950, 12.3 k, 4.56 M, 1.2 T."""
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g} T"


def percent(share: float) -> str:
    """A share in percent; one that is not nothing does not look like nothing."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def compact_power(power: int) -> str:
    """A power of two as short as it can be said: 512, 4k, 1M (of 1,024)."""
    unit = min(power // 10, 4)
    return f"{2 ** (power - 10 * unit)}{('', 'k', 'M', 'G', 'T')[unit]}"
