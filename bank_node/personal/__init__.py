"""The model a bank deploys: its own and the global one, combined inside the bank, and what scores with it."""
