"""Which rule keeps most of the model when banks lie: whole campaigns in memory, on the product's own learners."""
