"""What a step costs on given hardware: work, rates, collectives, and how they overlap."""
