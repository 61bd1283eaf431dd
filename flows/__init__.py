"""The order of stages, as Prefect flows, and the command line that starts them."""
