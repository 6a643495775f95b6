"""How good a model is: metrics on tensors, a whole split with baselines, and the report a person reads.

The modules are imported by name (``pairloom.evaluation.evaluate``): whoever needs a metric loads no more.
"""
