"""What a Workspace is: models of both API versions, conversion, names of its objects, and the CRD that is made of it.

Nothing here judges a Workspace (validation) or says how it is doing (status).
"""
