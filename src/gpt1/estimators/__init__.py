"""Estimators for every task that follow scikit-learn's contract."""
