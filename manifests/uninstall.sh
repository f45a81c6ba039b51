#!/bin/sh
# Takes hotnic off the cluster that kubectl talks to, however it was installed:
#
#     manifests/uninstall.sh --detach     every interface that it attached is detached first, and the pods' status says so
#     manifests/uninstall.sh --keep       interfaces stay as they are, and on each node /var/lib/hotnic, which says how
#                                         they are taken down, while there are any
#
# Before anything is changed every node is asked what is in the way there. It can be repeated, and goes on where it was
# stopped. What is not hotnic's stays: NetworkAttachmentDefinitions and their definition, bridges that networks name, and
# the namespace while anything else is in it. Another namespace: NAMESPACE=mine. How long it waits for all nodes:
# TIMEOUT=15m. `--force` as a second word: though a node cannot be asked, or the DaemonSet is gone.
set -eu

NAMESPACE=${NAMESPACE:-hotnic-system}
PATCHES=$(dirname "$0")/uninstall
OURS=app.kubernetes.io/part-of=hotnic
MODE=${1-}
FORCE=${2-}

case "$*" in
--detach | --keep | "--detach --force" | "--keep --force") ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

say() { printf '==> %s\n' "$*"; }
stop() { printf '==> %s\n' "$*" >&2; exit 1; }

# What the API says of the DaemonSet; nothing where there is none. Only ever in an assignment of its own: in a test, `set
# -e` would take a failure for that as well.
daemonset() {
    kubectl get daemonset hotnic -n "$NAMESPACE" --ignore-not-found -o jsonpath="$1"
}

# Wait until the DaemonSet's pods are ready on all nodes; else tell which are not, and why.
rolled_out() {
    kubectl rollout status -n "$NAMESPACE" daemonset/hotnic --timeout="${TIMEOUT:-15m}" && return
    say "not done on all nodes: the pods that are not ready, and the last words of each"
    kubectl get pods -n "$NAMESPACE" -l app.kubernetes.io/name=hotnic -o wide
    kubectl logs -n "$NAMESPACE" -l app.kubernetes.io/name=hotnic --all-containers --prefix --tail=3 || true
    # of one that ends again and again: what runs just now may not have said it yet
    ended='{.lastState.terminated.message}'
    kubectl get pods -n "$NAMESPACE" -l app.kubernetes.io/name=hotnic \
        -o jsonpath="{range .items[*].status.containerStatuses[*]}$ended{end}"
    stop "it has begun, and is not done: repeat it to go on, or go back (docs/install.md)"
}

# Without a DaemonSet nobody knows whether the nodes are clean, unless the roles, which go before it, are gone too.
has_gone() {
    roles=$(kubectl get clusterroles -l "$OURS" -o name)
    [ -n "$roles" ] || return 0
    elsewhere=$(kubectl get daemonsets -A -l "$OURS" -o jsonpath='{range .items[*]}{.metadata.namespace}/{.metadata.name} {end}')
    say "no DaemonSet hotnic in namespace $NAMESPACE, but the cluster has hotnic's roles; its DaemonSets: ${elsewhere:-none}"
    [ "$FORCE" = --force ] || stop "name its namespace by NAMESPACE=…; without one, --force goes on, and cleans no node"
}

# Ask the agents, while they run: one that ends again and again can be entered for a moment, and is no one to be asked. The
# nodes that are clean, or are not, are told apart once more by the clean step.
look() {
    say "asking the nodes what is in the way"
    conf_dir=$(daemonset '{.spec.template.spec.containers[?(@.name=="agent")].env[?(@.name=="CNI_CONF_DIR")].value}')
    pods=$(kubectl get pods -n "$NAMESPACE" -l app.kubernetes.io/name=hotnic \
        -o jsonpath='{range .items[*]}{.metadata.name}={.spec.nodeName}={.status.containerStatuses[?(@.name=="agent")].started} {end}')
    in_the_way=
    for pod in $pods; do
        node=${pod#*=}
        node=${node%%=*}
        if [ "${pod##*=}" = true ]; then
            said=$(kubectl exec -n "$NAMESPACE" "${pod%%=*}" -c agent -- hotnic-agent uninstall "$MODE" --check \
                --host-root=/host --cni-conf-dir="$conf_dir" 2>&1) || in_the_way="$in_the_way $node"
        else
            said="its agent does not run, so nobody there can be asked"
            in_the_way="$in_the_way $node"
        fi
        [ -z "$said" ] || say "node $node: $said"
    done
    [ -z "$in_the_way" ] || [ "$FORCE" = --force ] || stop "nothing was changed; first see to:$in_the_way"
}

# Have the controllers, which run with $arguments, detach everything, once.
withdraw() {
    names=$(daemonset '{.spec.template.spec.containers[*].name}')
    position=0
    for name in $names; do
        [ "$name" != controller ] || break
        position=$((position + 1))
    done
    case " $arguments " in
    *" --withdraw "*) ;;
    *)
        sed "s/POSITION/$position/" "$PATCHES/withdraw.yaml" |
            kubectl patch daemonset hotnic -n "$NAMESPACE" --type=json --patch-file=/dev/stdin
        ;;
    esac
    rolled_out
}

clean() {
    command=$(daemonset '{.spec.template.spec.containers[?(@.name=="agent")].command[*]}')
    case "$command" in
    hotnic-agent)
        arguments=$(daemonset '{.spec.template.spec.containers[?(@.name=="controller")].args[*]}')
        case "$MODE: $arguments " in
        "--keep:"*" --withdraw "*) say "--detach was begun: what it has detached already is not attached again by this" ;;
        esac
        look
        # the relay would ask KubeVirt for what is taken away
        kubectl delete deployment hotnic-cluster -n "$NAMESPACE" --ignore-not-found --cascade=foreground
        if [ "$MODE" = --detach ]; then
            say "detaching everything"
            withdraw
        fi
        say "taking hotnic off the nodes"
        sed "s/--MODE, /$MODE, /" "$PATCHES/clean.yaml" |
            kubectl patch daemonset hotnic -n "$NAMESPACE" --patch-file=/dev/stdin
        ;;
    "hotnic-agent uninstall $MODE --stay") say "going on with what was begun" ;;
    "hotnic-agent uninstall "*)
        stop "it was begun the other way ($command): go on so, or go back first (docs/install.md)"
        ;;
    *) stop "the container agent of the DaemonSet runs \"$command\", and not hotnic-agent: nothing was changed" ;;
    esac
    rolled_out
}

# The namespace goes if it came with hotnic, and nothing is in it but what each one has.
drop_namespace() {
    namespace=$(kubectl get namespaces -l "$OURS" --field-selector "metadata.name=$NAMESPACE" -o name)
    [ -n "$namespace" ] || return 0
    kinds=$(kubectl api-resources --verbs=list --namespaced -o name)
    there=$(kubectl get "$(echo $kinds | tr ' ' ,)" -n "$NAMESPACE" --ignore-not-found -o name)
    others=$(printf '%s\n' "$there" | sed -E '/^(event[^/]*\/.*|podmetrics[^/]*\/.*|configmap\/kube-root-ca\.crt|serviceaccount\/default|)$/d')
    if [ -n "$others" ]; then
        say "namespace $NAMESPACE stays, as this is in it:" $others
    else
        kubectl delete namespace "$NAMESPACE"
    fi
}

found=$(daemonset '{.metadata.name}')
if [ -n "$found" ]; then clean; else has_gone; fi

say "taking hotnic off the cluster"
for kind in validatingadmissionpolicybindings validatingadmissionpolicies clusterrolebindings clusterroles; do
    kubectl delete "$kind" -l "$OURS"
done
for kind in deployments poddisruptionbudgets networkpolicies rolebindings roles serviceaccounts configmaps; do
    kubectl delete "$kind" -n "$NAMESPACE" -l "$OURS"
done
kubectl delete lease hotnic-cluster -n "$NAMESPACE" --ignore-not-found
# last: while it is there, a repeated run knows about the nodes
kubectl delete daemonset hotnic -n "$NAMESPACE" --ignore-not-found --cascade=foreground
drop_namespace
