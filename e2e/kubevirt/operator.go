// Command kubevirt prints what an administrator applies to install KubeVirt: the namespace, the custom resource
// definition, the priority class, and its operator with the operator's rights. KubeVirt's own packages make all of it;
// the operator installs the rest by itself.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
)

func main() {
	namespace := flag.String("namespace", "kubevirt", "where KubeVirt lives")
	repository := flag.String("repository", "", "where its images are, without the image's name")
	version := flag.String("version", "", "its version, which is its images' tag")
	flag.Parse()

	definition, err := components.NewKubeVirtCrd()
	if err != nil {
		log.Fatal(err)
	}
	deployment := components.NewOperatorDeployment(*namespace, *repository, "", *version, "2", "", "",
		"", "", "", "", "", "", "", "", "", "", "", corev1.PullIfNotPresent)
	objects := []any{
		&corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: *namespace},
		},
		definition,
		components.NewKubeVirtPriorityClassCR(),
	}
	objects = append(objects, rbac.GetAllOperator(*namespace)...)
	objects = append(objects, deployment)
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": objects}
	if err := json.NewEncoder(os.Stdout).Encode(list); err != nil {
		log.Fatal(err)
	}
}
