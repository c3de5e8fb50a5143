"""From scores of labelled images to a policy: calibrated probabilities and a threshold, whose rates have intervals."""
