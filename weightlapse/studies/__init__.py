"""Five small experiments on weights, reproduced, corrected and answered."""
