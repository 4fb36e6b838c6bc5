"""Scores for single payments, inside the bank: which model, what a request may say, and what it is answered."""
