"""The stage of ``koguma demo``: a CA, origins, documents, and a proxy in a process of its own."""
