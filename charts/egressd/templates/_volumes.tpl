{{/* Volumes and their mounts, each pair beside each other. */}}

{{- define "egressd.collector.mounts" -}}
{{- if .Values.collector.stateDir.enabled }}
- name: state
  mountPath: /run/egressd
{{- end }}
{{- if or (include "egressd.readsCilium" .) (include "egressd.countsInKernel" .) }}
- name: cilium-bpf-maps
  mountPath: /sys/fs/bpf
  mountPropagation: HostToContainer
  {{- if not (include "egressd.countsInKernel" .) }}
  readOnly: true
  {{- end }}
{{- end }}
{{- if include "egressd.readsCilium" . }}
- name: cilium-run
  mountPath: /var/run/cilium
  readOnly: true
{{- end }}
{{- if include "egressd.loadsBpf" . }}
- name: cgroup
  mountPath: /sys/fs/cgroup
  readOnly: true
{{- end }}
{{- if ne .Values.tls.mode "plaintext" }}
- name: ca
  mountPath: /etc/egressd/ca
  readOnly: true
{{- if .Values.tls.tokens.enabled }}
- name: token
  mountPath: /var/run/secrets/egressd
  readOnly: true
{{- end }}
{{- end }}
{{- with .Values.collector.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "egressd.collector.volumes" -}}
{{- if .Values.collector.stateDir.enabled }}
- name: state
  hostPath:
    path: {{ .Values.collector.stateDir.hostPath }}
    type: DirectoryOrCreate
{{- end }}
{{- if or (include "egressd.readsCilium" .) (include "egressd.countsInKernel" .) }}
- name: cilium-bpf-maps
  hostPath:
    path: {{ .Values.collector.cilium.bpfHostPath }}
    type: DirectoryOrCreate
{{- end }}
{{- if include "egressd.readsCilium" . }}
- name: cilium-run
  hostPath:
    path: {{ .Values.collector.cilium.runHostPath }}
    type: DirectoryOrCreate
{{- end }}
{{- if include "egressd.loadsBpf" . }}
- name: cgroup
  hostPath:
    path: /sys/fs/cgroup
    type: Directory
{{- end }}
{{- if eq .Values.tls.mode "managed" }}
- name: ca
  configMap:
    # The exporter makes it when it first starts; until then there is none to dial anyway.
    name: {{ include "egressd.authority" . }}
    optional: true
{{- else if ne .Values.tls.mode "plaintext" }}
- name: ca
  secret:
    # The authority's certificate alone: no key leaves the exporter. Without one the collector measures and says so, where
    # its pod would hang.
    secretName: {{ include "egressd.certificate" . }}
    optional: true
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- if and .Values.tls.tokens.enabled (ne .Values.tls.mode "plaintext") }}
- name: token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .Values.tls.tokens.audience }}
          expirationSeconds: {{ .Values.tls.tokens.expirationSeconds | int }}
{{- end }}
{{- with .Values.collector.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "egressd.exporter.mounts" -}}
- name: config
  mountPath: /etc/egressd/config
  readOnly: true
{{- if has .Values.tls.mode (list "certManager" "secret") }}
- name: tls
  mountPath: /etc/egressd/tls
  readOnly: true
{{- end }}
{{- if .Values.exporter.readersToken.existingSecret }}
- name: readers
  mountPath: /etc/egressd/readers
  readOnly: true
{{- end }}
{{- if .Values.exporter.spool.enabled }}
- name: spool
  mountPath: /var/lib/egressd
{{- end }}
{{- with .Values.exporter.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "egressd.exporter.volumes" -}}
- name: config
{{- if .Values.exporter.existingSecretForConfig }}
  secret:
    secretName: {{ .Values.exporter.existingSecretForConfig }}
{{- else }}
  configMap:
    name: {{ include "egressd.exporter.fullname" . }}
{{- end }}
{{- if has .Values.tls.mode (list "certManager" "secret") }}
- name: tls
  secret:
    secretName: {{ include "egressd.certificate" . }}
    items:
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
{{- end }}
{{- if .Values.exporter.readersToken.existingSecret }}
- name: readers
  secret:
    secretName: {{ .Values.exporter.readersToken.existingSecret }}
    items:
      - key: {{ .Values.exporter.readersToken.key }}
        path: token
{{- end }}
{{- if .Values.exporter.spool.enabled }}
- name: spool
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-spool" (include "egressd.exporter.fullname" .)) .Values.exporter.spool.existingClaim }}
{{- end }}
{{- with .Values.exporter.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
