"""The paper's claims, tested again on models small enough for two CPU cores."""
