"""From the student's number to a verdict: by a policy, or by the threshold of the model's card."""
