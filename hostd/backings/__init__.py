"""What devices have behind them on the host: a file for each sort, and for what these stand on."""
