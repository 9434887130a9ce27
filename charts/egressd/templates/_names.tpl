{{/* Names, labels and images. Names and selectors are those of the original's chart: selectors cannot be changed. */}}

{{- define "egressd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "egressd.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "egressd.exporter.name" -}}
{{- printf "%s-exporter" (include "egressd.name" .) -}}
{{- end -}}

{{- define "egressd.exporter.fullname" -}}
{{- printf "%s-exporter" (include "egressd.fullname" .) -}}
{{- end -}}

{{/* The Secret and the ConfigMap in which the exporter keeps its authority and publishes its certificate. */}}
{{- define "egressd.authority" -}}
{{- printf "%s-ca" (include "egressd.exporter.fullname" .) -}}
{{- end -}}

{{/* The Secret of the exporter's certificate, where the exporter does not make it itself. */}}
{{- define "egressd.certificate" -}}
{{- if eq .Values.tls.mode "secret" -}}
{{- required "tls.secret.name: name the Secret with tls.crt, tls.key and ca.crt, or choose another tls.mode" .Values.tls.secret.name -}}
{{- else -}}
{{- printf "%s-tls" (include "egressd.exporter.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "egressd.collector.serviceAccount" -}}
{{- if .Values.collector.serviceAccount.create -}}
{{- default (include "egressd.fullname" .) .Values.collector.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.collector.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "egressd.exporter.serviceAccount" -}}
{{- if .Values.exporter.serviceAccount.create -}}
{{- default (include "egressd.exporter.fullname" .) .Values.exporter.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.exporter.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "egressd.selector" -}}
app.kubernetes.io/name: {{ include "egressd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "egressd.exporter.selector" -}}
app.kubernetes.io/name: {{ include "egressd.exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "egressd.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "egressd.labels" -}}
{{ include "egressd.selector" . }}
{{ include "egressd.commonLabels" . }}
{{- end -}}

{{- define "egressd.exporter.labels" -}}
{{ include "egressd.exporter.selector" . }}
{{ include "egressd.commonLabels" . }}
{{- end -}}

{{/* An image, by digest or tag. Values files that were copied from the original's defaults name its images, which do not
know this chart's flags: they are taken for ours, and its tag with them. */}}
{{- define "egressd.image" -}}
{{- $image := .image -}}
{{- if hasPrefix "ghcr.io/castai/egressd/" ($image.repository | toString) -}}
{{- $image = dict "repository" .ours -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag | toString) -}}
{{- end -}}
{{- end -}}

{{- define "egressd.collector.image" -}}
{{- include "egressd.image" (dict "root" . "image" .Values.collector.image "ours" "egressd-collector") -}}
{{- end -}}

{{- define "egressd.exporter.image" -}}
{{- include "egressd.image" (dict "root" . "image" .Values.exporter.image "ours" "egressd-exporter") -}}
{{- end -}}
