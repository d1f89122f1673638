"""What devices have behind them on the host: a file for each sort; parts/ has what several of them stand on."""
