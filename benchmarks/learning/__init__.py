"""The learning benchmark: five ways to make a model, three sets of rows, six privacy budgets."""
