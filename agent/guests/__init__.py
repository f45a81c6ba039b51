"""Virtual machines that run in pods: how an interface of the pod is handed on to the guest, and taken back."""
