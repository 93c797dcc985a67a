"""Bad input and bad weather: every case through the real command line, and what happened, as a table.

python -m benchmarks.robustness --table docs/robustness.md
"""
