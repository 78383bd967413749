"""Reports of runs: what they learned, where they err, and how they were made, as one HTML file and as JSON."""
