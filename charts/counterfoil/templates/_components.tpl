{{- /*
The components of this release that have pods, each with what its network policy lets through, as YAML. `hook`: it comes
before each install and upgrade, and goes again.
*/ -}}
{{- define "counterfoil.components" -}}
{{- $gates := list }}
{{- if .Values.rollout.enabled }}{{- $gates = include "counterfoil.gateComponents" . | fromYamlArray }}{{- end }}
{{- with .Values.jobs }}
{{- if ne .schema.mode "none" }}
schema:
  reaches: [database]
  hook: {{ eq .schema.mode "hook" }}
{{- end }}
{{- if or .billingReconciliation.enabled (has "billing-reconciliation" $gates) }}
billing-reconciliation:
  reaches: [database]
{{- end }}
{{- if .eventReplay.enabled }}
event-replay:
  reaches: [database{{ if not $.Values.service.republishFunction }}, service{{ end }}]
{{- end }}
{{- if or .flowProbe.enabled (has "flow-probe" $gates) }}
flow-probe:
  reaches: [database, service]
{{- end }}
{{- if .backupRetention.enabled }}
backup-retention:
  reaches: [database]
{{- end }}
{{- end }}
{{- if .Values.exporter.enabled }}
exporter:
  reaches: [database{{ if .Values.rollout.enabled }}, apiServer{{ end }}]
  isAsked: true
{{- end }}
{{- range $subject, $of := include "counterfoil.tests" . | fromYaml }}
test-{{ $subject }}:
  reaches: [database{{ with $of.reaches }}, {{ . }}{{ end }}]
{{- end }}
{{- end -}}
