"""The course lab: ninety minutes in which a class finds out what a fairness number is worth."""
