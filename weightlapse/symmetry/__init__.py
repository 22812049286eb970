"""Same function, different weights: match, apply, distance, canonical form, compare.

An alignment is one pipeline, a file for each step:

    nets        what was given: modules or states, read once, under the names of the first
    problem     two states of one wiring and one size, what may be moved, how long to look; all that can be wrong is told here
    solvers     problem -> candidates: by bases, by weights, by activations
    choose      the nearest candidate, or the one that loses least half way between the networks
    judge       does the function stay? moves undone, invariants, b run before and after
    alignment   the result

    networks    states (what they hold, how far apart), checks (what must hold of them), runner (run them on data), widths and fold (of different widths)
    group       units (a group's parts as rows), elements and with_bases (what is done to them), moved, nesting, candidate
    solving     search (starts, budget), match and assign and sketch (orders and signs), scale, rebase and fits (bases), activations
    judging     invariants, barrier, identify, reducible, cka
    verbs       align, align_all, compare (and its verdict), canonical (and own_bases), follow and runs (recordings), apply, figure
"""
