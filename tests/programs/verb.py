"""``python -m weightlapse``, as a script: python verb.py WORD [WORD ...]"""

from weightlapse.cli import main

main()
