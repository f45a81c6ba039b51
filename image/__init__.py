"""The OCI image of hotnic, for all its roles, made from Debian's packages and the locked wheels."""
