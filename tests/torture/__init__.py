"""The breakers: damage, faults and kills without end, against what is known to be true. Short in the suite, long with ``make torture``."""
