"""The node agent: the sandbox's kubelet, for all simulated nodes at once. Pods run as processes under bubblewrap.

It must never leave a process behind: every container dies with the agent, whatever ends it.
"""
