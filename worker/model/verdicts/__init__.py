"""From the student's logit to a verdict: by a policy, or by the threshold of the model's card."""
