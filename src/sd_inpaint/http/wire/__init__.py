"""Forms, parameters, formats, results and errors, as bytes on the wire and as values."""
