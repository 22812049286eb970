"""One model of how a tensor becomes a picture: arrangement by kind, scale, palette, marks, ticks. Film, page and notebook follow it."""
