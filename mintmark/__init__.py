"""Mintmark: banks learn to catch fraud together and show nobody a transaction."""
