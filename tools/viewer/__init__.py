"""One self-contained HTML page of recorded steps: data packed by Python, drawn by the scripts in assets/."""
