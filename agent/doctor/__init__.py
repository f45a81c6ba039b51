"""`hotnic-agent doctor`: whether this node has what hotnic needs, what is wrong with it, and what to do.

    command      the command: looks, judges, tells
    contract     vocabulary: what is seen of the node, what is found
    judge        pure: what is seen -> findings
    chain        pure: what sits in the chain that the container runtime calls
    goprogram    pure: which version somebody else's executable says it is
    look         reader of the node: directories, the runtime, the agent's sockets, its state directory
    statedir     reader of the state directory: what of it the agent could not read
    cover        reader: whether the kubelet's directory is covered in the agent's view of the node
    kernel       reader: which links, queues and switches this kernel has
    door         reader: the agent's answer to Health

Rules
1. It reads only. Nothing is made on the node, not even for a moment: the kernel is asked for links that it has to
   refuse (kernel, rule 1). What it executes is the CNI executable alone, for VERSION and STATUS.
2. It works beside an agent, and where none can start: each part that cannot be looked at is a finding of its own.
3. What keeps pods from their interfaces, or opens what is to be covered, is `fail`, what some networks need and others
   do not is `warn`. Whatever is not `ok` says what to do.
"""
