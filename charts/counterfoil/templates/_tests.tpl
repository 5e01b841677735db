{{- /*
What helm test tries, as YAML by name: the settings of jobs/wiring, the role whose URL it gets, and what it reaches beside the
database.
*/ -}}
{{- define "counterfoil.tests" -}}
{{- $values := .Values -}}
{{- range $role := include "counterfoil.rolesInUse" . | fromYamlArray }}
database-{{ $role }}:
  role: {{ $role }}
  settings:
    CF_SUBJECT: database
    CF_ROLE: {{ $role }}
    {{- if and (eq $role "jobs") $values.rollout.enabled (has "reconciliation" (include "counterfoil.gates" $ | fromYamlArray)) }}
    CF_STATS_NEEDED: "true"
    {{- end }}
{{- end }}
{{- if and $values.jobs.eventReplay.enabled (not $values.service.republishFunction) }}
endpoint:
  role: jobs
  reaches: service
  settings:
    CF_SUBJECT: endpoint
    CF_REPLAY_URL: {{ get (include "counterfoil.settings.event-replay" . | fromYaml) "CF_REPLAY_URL" | quote }}
{{- end }}
{{- if $values.exporter.enabled }}
exporter:
  role: exporter
  reaches: exporter
  settings:
    CF_SUBJECT: exporter
    CF_EXPORTER_URL: http://{{ include "counterfoil.componentName" (dict "root" $ "component" "exporter") }}:{{ int $values.exporter.port }}
    {{- if $values.rollout.enabled }}
    CF_ROLLOUT_NAME: {{ include "counterfoil.rolloutName" . | quote }}
    {{- end }}
{{- if $values.prometheusRule.enabled }}
prometheus:
  role: exporter
  reaches: prometheus
  settings:
    CF_SUBJECT: prometheus
    CF_NAMESPACE: {{ .Release.Namespace }}
    CF_RULE_GROUPS: {{ include "counterfoil.ruleGroups" . | fromYamlArray | join "," }}
    CF_PROMETHEUS_URL: {{ $values.metrics.prometheusUrl | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The keys of database.keys that something of this release connects with, as a list. */ -}}
{{- define "counterfoil.rolesInUse" -}}
{{- $values := .Values -}}
{{- if ne $values.jobs.schema.mode "none" }}
- owner
{{- end }}
- jobs
{{- if $values.exporter.enabled }}
- exporter
{{- end }}
{{- if $values.jobs.backupRetention.enabled }}
- retention
{{- end }}
{{- end -}}

{{- /* What every one of them is told. */ -}}
{{- define "counterfoil.settings.test" -}}
{{ include "counterfoil.settings.tables" . }}
CF_EVENTS_NEEDED: {{ .Values.jobs.eventReplay.enabled | quote }}
CF_VERSIONS: {{ .Values.service.versions | quote }}
{{- end -}}

{{- /* The groups of rules that this release renders, as a list: those of which a rule is left. */ -}}
{{- define "counterfoil.ruleGroups" -}}
{{- range $path, $_ := .Files.Glob "files/alerts/*.yaml" }}
{{- if or (not $.Values.prometheusRule.shared) (eq (base $path) "thresholds.yaml") }}
{{- range ($.Files.Get $path | fromYaml).groups }}
{{- $left := false }}
{{- range .rules }}
{{- if or .record (not (include "counterfoil.alertDisabled" (dict "root" $ "alert" .alert "severity" .labels.severity))) }}{{- $left = true }}{{- end }}
{{- end }}
{{- if $left }}
- {{ .name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
