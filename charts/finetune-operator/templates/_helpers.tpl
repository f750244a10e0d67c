{{/* Name of the created objects: <release>-<chart>, or the release name if it contains the chart name. */}}
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

{{/* Labels of the page, whose pods no selector of the operator matches. */}}
{{- define "finetune-operator.pageSelectorLabels" -}}
app.kubernetes.io/name: finetune-operator-page
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.pageLabels" -}}
{{ include "finetune-operator.pageSelectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: page
app.kubernetes.io/part-of: finetune-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required if serviceAccount.create is false: set it to the name of an existing ServiceAccount" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
Reference of an image. Takes a list of the path of the image in the values, the image
(repository, tag and digest), the tag to use if the image sets neither tag nor digest, and the
registry of all images. The first part of a repository is a registry if it contains a dot or a port,
or is localhost, as in Docker.
*/}}
{{- define "finetune-operator.imageReference" -}}
{{- $path := index . 0 -}}
{{- $image := index . 1 -}}
{{- $tag := default (index . 2) $image.tag -}}
{{- $name := $image.repository -}}
{{- with index . 3 -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $name "") -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (required (printf "%s has neither a tag nor a digest: set %s.tag or %s.digest" $path $path $path) $tag) -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.image" -}}
{{- include "finetune-operator.imageReference" (list "image" .Values.image .Chart.AppVersion .Values.imageRegistry) -}}
{{- end -}}

{{/* Folder of the certificate for the metrics in the operator container. */}}
{{- define "finetune-operator.certificateFolder" -}}
/etc/finetune-operator-metrics
{{- end -}}

{{/* Folder of the private key for statements about published models. */}}
{{- define "finetune-operator.signingKeyFolder" -}}
/etc/finetune-operator-signing
{{- end -}}

{{/* Folder of the bearer token for the sink of notifications. */}}
{{- define "finetune-operator.sinkFolder" -}}
/etc/finetune-operator-sink
{{- end -}}

{{/* Configuration of the operator, as YAML: the OperatorConfig of finetune_operator.config. */}}
{{- define "finetune-operator.config" -}}
operatorNamespace: {{ .Release.Namespace }}
scraperNamespaces: {{ .Values.metrics.scraperNamespaces | toJson }}
egress: {{ .Values.egress | toJson }}
metrics:
  secure: {{ .Values.metrics.secure }}
  certificateFolder: {{ if .Values.metrics.certificateSecret }}{{ include "finetune-operator.certificateFolder" . }}{{ else }}""{{ end }}
usage: {{ .Values.usage | toJson }}
kueue: {{ .Values.kueue | toJson }}
leaseName: {{ include "finetune-operator.fullname" . }}
watchNamespaces: {{ .Values.watchNamespaces | toJson }}
images:
  trainer: {{ include "finetune-operator.imageReference" (list "trainer.image" .Values.trainer.image .Chart.AppVersion .Values.imageRegistry) | quote }}
  serving: {{ include "finetune-operator.imageReference" (list "serving.image" .Values.serving.image "" .Values.imageRegistry) | quote }}
  operator: {{ include "finetune-operator.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ .Values.imagePullSecrets | toJson }}
hub:
  endpoint: {{ .Values.hub.endpoint | quote }}
proxy: {{ .Values.proxy | toJson }}
caCertificates: {{ .Values.caCertificates | quote }}
gpu: {{ .Values.gpu | toJson }}
policy: {{ omit .Values.policy "signatures" | toJson }}
{{- with .Values.policy.signatures }}
signatures: {{ . | toJson }}
{{- end }}
serving:
  command: {{ .Values.serving.command | toJson }}
  args: {{ .Values.serving.args | toJson }}
  env: {{ .Values.serving.env | toJson }}
  dtype: {{ .Values.serving.dtype | quote }}
  shmSize: {{ .Values.serving.shmSize | quote }}
defaults:
  {{- .Values.defaults | toYaml | nindent 2 }}
logLevel: {{ .Values.logLevel }}
{{- if .Values.provenance.signingKeySecret }}
signingKeyFile: {{ include "finetune-operator.signingKeyFolder" . }}/signing.key
{{- end }}
{{- with .Values.notifications.sink }}
{{- if .url }}
sink:
  url: {{ .url | quote }}
  tokenFile: {{ if .tokenSecret }}{{ include "finetune-operator.sinkFolder" $ }}/token{{ else }}""{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Fields that a limit can require, and whether the value `defaults` sets them, as CEL; and whether jobs
that do not set serving.enabled serve.
*/}}
{{- define "finetune-operator.defaulted" -}}
{'queueName': {{ ne (dig "queueName" "" .Values.defaults) "" }}, 'maxGpuSeconds': {{ ne (dig "runPolicy" "maxGpuSeconds" 0 .Values.defaults | int) 0 }}, 'afterSeconds': {{ ne (dig "serving" "idle" "afterSeconds" 0 .Values.defaults | int) 0 }}, 'apiKeySecretRef': {{ ne (dig "serving" "apiKeySecretRef" "name" "" .Values.defaults) "" }}, 'serves': {{ dig "serving" "enabled" true .Values.defaults }}}
{{- end -}}

{{/* Rules of the operator, for its ClusterRole or for its Role in each of watchNamespaces. */}}
{{- define "finetune-operator.rules" -}}
rules:
# FineTuneJobs: read the spec, write the status, own the created objects.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/finalizers]
  verbs: [update]
# FineTuneEndpoints: the same.
- apiGroups: [finetune.dev]
  resources: [finetuneendpoints]
  verbs: [get, list, watch]
- apiGroups: [finetune.dev]
  resources: [finetuneendpoints/status]
  verbs: [update]
- apiGroups: [finetune.dev]
  resources: [finetuneendpoints/finalizers]
  verbs: [update]
# Objects of a FineTuneJob or FineTuneEndpoint. Kubernetes garbage-collects them with their owner.
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
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  # That of an endpoint is changed with its list of model names.
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  # They are not deleted. The API server may require this verb for a change of the owners.
  verbs: [get, list, watch, create, patch, delete]
# Diagnosis: why a pod does not run.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [get, list]
# Events that `kubectl describe` shows.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
