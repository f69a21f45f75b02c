"""What real clients and real files do, built anew in code: each case says who sends such a thing."""
