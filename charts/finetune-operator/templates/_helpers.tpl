{{/* Name of what the chart creates: the release's, with the chart's behind it unless it is in it. */}}
{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: finetune-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: finetune-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false: name the ServiceAccount to use in serviceAccount.name" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The trainer's image; what follows the last slash tells a tag from a registry's port. */}}
{{- define "finetune-operator.trainerImage" -}}
{{- $image := .Values.trainer.image -}}
{{- if or (contains "@" $image) (contains ":" (base $image)) -}}
{{- $image -}}
{{- else -}}
{{- printf "%s:%s" $image .Chart.AppVersion -}}
{{- end -}}
{{- end -}}

{{/* The OperatorConfig, as YAML: what finetune_operator.config reads. */}}
{{- define "finetune-operator.config" -}}
operatorNamespace: {{ .Release.Namespace }}
monitoringNamespaces: {{ .Values.metrics.namespaces | toJson }}
egress: {{ .Values.egress | toJson }}
leaseName: {{ include "finetune-operator.fullname" . }}
namespaces: {{ .Values.namespaces | toJson }}
images:
  trainer: {{ include "finetune-operator.trainerImage" . | quote }}
  serving: {{ .Values.serving.image | quote }}
  operator: {{ include "finetune-operator.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ .Values.imagePullSecrets | toJson }}
hub:
  endpoint: {{ .Values.hub.endpoint | quote }}
serving:
  command: {{ .Values.serving.command | toJson }}
  args: {{ .Values.serving.args | toJson }}
  env: {{ .Values.serving.env | toJson }}
  dtype: {{ .Values.serving.dtype | quote }}
  shmSize: {{ .Values.serving.shmSize | quote }}
defaults:
  {{- .Values.defaults | toYaml | nindent 2 }}
logLevel: {{ .Values.logLevel }}
{{- end -}}

{{/* What the operator may do, in the whole cluster or in each namespace that it is confined to. */}}
{{- define "finetune-operator.rules" -}}
rules:
# The jobs: read what is asked for, write what is seen, own the children.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/finalizers]
  verbs: [update]
# The children. What is deleted with its job is deleted by Kubernetes, not by the operator.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, create, patch]
# Why something does not run.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [get, list]
# What people read in `kubectl describe`.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
