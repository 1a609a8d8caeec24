"""Everything that talks to the cluster. Hooks own the API calls; operators and triggers never make one."""
