{{/*
Node labels that name a GPU of gpu.products, as JSON: {label: [value, ...]}. With one product, pods
require the label of GPU Feature Discovery (finetune_operator.manifests.placement).
*/}}
{{- define "finetune-operator.gpuLabels" -}}
{{- $products := .Values.gpu.products -}}
{{- $labels := dict -}}
{{- with $products -}}
{{- $_ := set $labels "nvidia.com/gpu.product" . -}}
{{- end -}}
{{- if gt (len $products) 1 -}}
{{- range $label, $names := .Files.Get "files/gpu-node-labels.yaml" | fromYaml -}}
{{- $values := list -}}
{{- range $products -}}
{{- $values = concat $values (get $names . | default list) -}}
{{- end -}}
{{- with $values -}}
{{- $_ := set $labels $label . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $labels -}}
{{- end -}}

{{/*
Nodes on which train and serving pods can run: one line for each, or nothing. Takes a list of the
nodes, the labels, and the values of gpu.
*/}}
{{- define "finetune-operator.gpuNodes" -}}
{{- $labels := index . 1 -}}
{{- $gpu := index . 2 -}}
{{- range $node := index . 0 -}}
{{- $amount := get ($node.status.allocatable | default dict) $gpu.resourceName | default "0" -}}
{{- $found := ternary (list) (list "(any)") (or (gt (len $labels) 0) (eq $amount "0")) -}}
{{- range $label, $values := $labels -}}
{{- $value := get ($node.metadata.labels | default dict) $label -}}
{{- if has $value $values -}}
{{- $found = append $found (printf "%s=%s" $label $value) -}}
{{- end -}}
{{- end -}}
{{- with $found }}
  {{ printf "%-40s %-50s %s" $node.metadata.name (first .) $amount -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Where train and serving pods run, for NOTES.txt. Nodes are read only if the chart creates a
ClusterRole: a user who installs the chart for some namespaces may not be allowed to read nodes.
*/}}
{{- define "finetune-operator.gpuNotes" -}}
{{- $gpu := .Values.gpu -}}
{{- $selector := (.Values.defaults.placement | default dict).nodeSelector -}}
{{- $labels := include "finetune-operator.gpuLabels" . | fromJson -}}
{{- $nodes := list -}}
{{- if not .Values.watchNamespaces -}}
{{- $nodes = (lookup "v1" "Node" "" "").items | default list -}}
{{- end -}}
{{- $matching := include "finetune-operator.gpuNodes" (list $nodes $labels $gpu) -}}
{{- if $selector -}}
Train and serving pods run only on nodes with these labels (chart value defaults.placement.nodeSelector):
{{ range $label, $value := $selector }}
  {{ $label }}={{ $value }}
{{- end }}
{{- else if $matching -}}
Train and serving pods can run on these nodes (chart value gpu.products: {{ $gpu.products | join ", " | default "any" }}):

  {{ printf "%-40s %-50s %s" "NODE" "LABEL" $gpu.resourceName }}
{{- $matching }}
{{- else if not $gpu.products -}}
{{ if $nodes }}WARNING: no node of this cluster provides the resource {{ $gpu.resourceName }}. {{ end -}}
Train and serving pods run on the nodes that provide {{ $gpu.resourceName }}.
{{- else -}}
{{- if $nodes -}}
WARNING: no node of this cluster has a GPU of the chart value gpu.products ({{ join ", " $gpu.products }}).
{{ end -}}
Train and serving pods stay pending until a node has one of these labels:
{{ range $label, $values := $labels }}
  {{ $label }} in ({{ join ", " $values }})
{{- end }}

To see these labels of your nodes, run:

  kubectl get nodes -L {{ keys $labels | sortAlpha | join "," }}

To use other GPUs, set gpu.products to the values of the label nvidia.com/gpu.product on your nodes. If your nodes do
not have this label, install NVIDIA GPU Feature Discovery, or label each GPU node, for example:

  kubectl label node <node> nvidia.com/gpu.product={{ first $gpu.products }}
{{- end }}
{{- end -}}
