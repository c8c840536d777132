"""What nobody sends on purpose: requests, definitions, events and answers that hypothesis and schemathesis make up."""
