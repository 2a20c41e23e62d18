"""Fit, predict and save for every task, under scikit-learn's contract."""
