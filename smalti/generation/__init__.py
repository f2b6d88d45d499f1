"""One generation: its settings, how it samples, seeds, steps, results and frames."""
