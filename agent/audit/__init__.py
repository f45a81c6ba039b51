"""`hotnic-agent audit`: what is left on the node of containers that live no more, of whoever made it, and its removal.

    command      the command: looks, tells, mends
    contract     vocabulary: what is seen, what is found, what would mend it
    life         pure: which container is dead, and how that is known
    files        pure: leases, result caches, journals and other files
    links        pure: links, rules and namespaces of the kernel, ports of Open vSwitch
    look, nft    readers
    mend         the repairs

Rules
1. Nothing of a container that may live is touched. Dead is one that the runtime does not list as ready, of which no
   network namespace is left that anybody has noted, and in which no process runs. Where the runtime does not answer,
   nobody is dead.
2. A container is not listed before its first ADD has ended. So one of which anything is younger than the guard's age is
   not judged, and by what has no age none is while any namespace is that young that no listed container has.
3. What the agent's journal has is the agent's: it is told, and left to it.
4. What is proven is repaired, by the least: a DEL with the configuration of the ADD where a runtime has kept it, else
   the removal of the one thing; under the lock of its store, if it has one. What is not proven is told.
5. A look is proof for a second: before a later repair there is another one. The repair itself looks once more at its
   own thing, which may have been made anew under the same name; what changed since is told, and is not mended.
6. Only runtimes of Kubernetes never give an ID again, and list all that lives (it is 64 hexadecimal digits). So where
   anything could not be looked at or read, nothing else is repaired: what was missed may be another's sign of life.
7. An ID in a rule of nftables is proof if it is whole, in the table and chain of its plugin, and is such a one or one
   that a lease or a result cache has as well.
8. What tells whose a link or a rule is, goes after it: a repair that is ended at any moment can be gone on with.
"""
