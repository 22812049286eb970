"""Same function, different weights: match, apply, distance, canonical form, compare."""
