#!/bin/sh
# Takes hotnic off the cluster that kubectl talks to, however it was installed:
#
#     manifests/uninstall.sh --detach     every interface that it attached is detached first, and the pods' status says so
#     manifests/uninstall.sh --keep       interfaces stay as they are, and on each node /var/lib/hotnic, which says how
#                                         they are taken down, while there are any
#
# It can be repeated, and goes on where it was stopped. What is not hotnic's stays: the definition of
# NetworkAttachmentDefinition, networks, and bridges that networks name. How long it waits for all nodes: TIMEOUT=15m.
set -eu

NAMESPACE=hotnic-system
PATCHES=$(dirname "$0")/uninstall
MODE=${1-}

case "$MODE" in
--detach | --keep) ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

say() { printf '==> %s\n' "$*"; }

# Wait until the DaemonSet's pods are ready on all nodes; else tell which are not, and why.
rolled_out() {
    kubectl rollout status -n "$NAMESPACE" daemonset/hotnic --timeout="${TIMEOUT:-15m}" && return
    say "not done on all nodes: the pods that are not ready, and the last words of each"
    kubectl get pods -n "$NAMESPACE" -l app.kubernetes.io/name=hotnic -o wide
    kubectl logs -n "$NAMESPACE" -l app.kubernetes.io/name=hotnic --all-containers --prefix --tail=3
    exit 1
}

containers() {
    kubectl get daemonset hotnic -n "$NAMESPACE" --ignore-not-found \
        -o jsonpath='{.spec.template.spec.containers[*].name}'
}

if [ -n "$(containers)" ]; then
    # the relay would ask KubeVirt for what is taken away
    kubectl delete deployment hotnic-cluster -n "$NAMESPACE" --ignore-not-found
    if [ "$(containers)" = "agent controller" ]; then
        if [ "$MODE" = --detach ]; then
            say "detaching everything"
            kubectl patch daemonset hotnic -n "$NAMESPACE" --type=json --patch-file="$PATCHES/withdraw.yaml"
            rolled_out
        fi
        say "taking hotnic off the nodes"
        sed "s/--MODE, /$MODE, /" "$PATCHES/clean.yaml" |
            kubectl patch daemonset hotnic -n "$NAMESPACE" --patch-file=/dev/stdin
    fi
    rolled_out
fi

say "taking hotnic off the cluster"
kubectl delete namespace "$NAMESPACE" --ignore-not-found
for kind in validatingadmissionpolicybindings validatingadmissionpolicies clusterrolebindings clusterroles; do
    kubectl delete "$kind" -l app.kubernetes.io/part-of=hotnic
done
