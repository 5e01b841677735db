{{- /* A value as an environment variable has it: a large number is no `1e+06`. */ -}}
{{- define "counterfoil.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) -}}{{- int64 . -}}{{- else -}}{{- . -}}{{- end -}}
{{- end -}}

{{- /* A share in thousandths. */ -}}
{{- define "counterfoil.perMille" -}}
{{- include "counterfoil.text" (round (mulf 1000 .) 6) -}}
{{- end -}}

{{- /* The path at which the checks lie in every pod that judges; empty where the built-in check is enough. */ -}}
{{- define "counterfoil.checksFile" -}}
{{- if .Values.checks -}}/etc/counterfoil/checks/checks.yaml{{- end -}}
{{- end -}}

{{- /* Where the public interface of the service begins. Takes a dict: root, service (the name of a Kubernetes Service). */ -}}
{{- define "counterfoil.serviceUrl" -}}
{{- $port := int .root.Values.service.port -}}
{{- printf "http://%s%s" .service (eq $port 80 | ternary "" (printf ":%d" $port)) -}}
{{- end -}}

{{- /* What every process is told. */ -}}
{{- define "counterfoil.settings.runtime" -}}
CF_INSTALLATION: {{ include "counterfoil.installation" . | quote }}
CF_SCHEMA: {{ .Values.database.schema | quote }}
{{- end -}}

{{- /* What every process that reads the service's tables is told. */ -}}
{{- define "counterfoil.settings.tables" -}}
{{ include "counterfoil.settings.runtime" . }}
CF_CHECKS_FILE: {{ include "counterfoil.checksFile" . | quote }}
CF_EVENTS_TABLE: {{ .Values.service.eventsTable | quote }}
CF_SERVICE_TIME_ZONE: {{ .Values.service.timeZone | quote }}
{{- end -}}

{{- define "counterfoil.settings.schema" -}}
{{ include "counterfoil.settings.runtime" . }}
{{- end -}}

{{- define "counterfoil.settings.billing-reconciliation" -}}
{{ include "counterfoil.settings.tables" . }}
CF_REPAIR: {{ .Values.jobs.billingReconciliation.repair | quote }}
CF_REPAIR_LIMIT: {{ include "counterfoil.text" .Values.jobs.billingReconciliation.repairLimit | quote }}
{{- end -}}

{{- define "counterfoil.settings.event-replay" -}}
{{ include "counterfoil.settings.tables" . }}
CF_DELIVERIES_TABLE: {{ .Values.service.deliveriesTable | quote }}
CF_MODE: {{ eq .Values.jobs.eventReplay.mode "deployment" | ternary "continuous" "once" | quote }}
CF_GRACE_SECONDS: {{ include "counterfoil.text" .Values.jobs.eventReplay.graceSeconds | quote }}
{{- $url := include "counterfoil.serviceUrl" (dict "root" . "service" (include "counterfoil.replayService" .)) }}
{{- if .Values.service.republishFunction }}
CF_REPUBLISH_FUNCTION: {{ .Values.service.republishFunction | quote }}
{{- else }}
CF_REPLAY_URL: {{ printf "%s%s" $url .Values.service.replayPath | quote }}
{{- with .Values.service.correctionsPath }}
CF_CORRECTIONS_URL: {{ printf "%s%s" $url . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "counterfoil.settings.flow-probe" -}}
{{ include "counterfoil.settings.tables" . }}
CF_DELIVERIES_TABLE: {{ .Values.service.deliveriesTable | quote }}
CF_PROBE_URL: {{ include "counterfoil.serviceUrl" (dict "root" . "service" .Values.service.name) | quote }}
CF_PROBE_FILE: {{ .Values.jobs.flowProbe.flow | empty | ternary "" "/etc/counterfoil/flow/flow.yaml" | quote }}
{{- end -}}

{{- define "counterfoil.settings.backup-retention" -}}
{{ include "counterfoil.settings.tables" . }}
CF_DELIVERIES_TABLE: {{ .Values.service.deliveriesTable | quote }}
CF_RETENTION_DAYS: {{ include "counterfoil.text" .Values.jobs.backupRetention.days | quote }}
CF_DRY_RUN: {{ .Values.jobs.backupRetention.dryRun | quote }}
{{- end -}}

{{- /* How far back the gate judges: over the whole release, the waits of its gates included; a week at most. */ -}}
{{- define "counterfoil.gateWindow" -}}
{{- $gates := .Values.rollout.gates -}}
{{- $hold := include "counterfoil.durationSeconds" ($gates.sample.hold | default $gates.hold) | int64 -}}
{{- $seconds := 60 -}}
{{- range $step := .Values.rollout.steps -}}
  {{- $seconds = add $seconds (include "counterfoil.durationSeconds" $step.pause | int64) -}}
  {{- if has "sample" (include "counterfoil.stepGates" (dict "root" $ "step" $step) | fromYamlArray) -}}
    {{- $seconds = add $seconds $hold -}}
  {{- end -}}
{{- end -}}
{{- min $seconds 604800 -}}
{{- end -}}

{{- /* The thresholds are those of the alerts, in thousandths: a gate and an alert never differ. */ -}}
{{- define "counterfoil.settings.exporter" -}}
{{ include "counterfoil.settings.tables" . }}
CF_DELIVERIES_TABLE: {{ .Values.service.deliveriesTable | quote }}
CF_LISTEN_PORT: {{ include "counterfoil.text" .Values.exporter.port | quote }}
CF_GRACE_SECONDS: {{ include "counterfoil.text" .Values.jobs.eventReplay.graceSeconds | quote }}
CF_GATE_LOSS_PER_MILLE: {{ include "counterfoil.perMille" .Values.thresholds.eventLossRatio | quote }}
CF_GATE_BILLING_PER_MILLE: {{ include "counterfoil.perMille" .Values.thresholds.billingErrorRatio | quote }}
CF_GATE_MINIMUM_BAD: {{ include "counterfoil.text" .Values.thresholds.ratioBadMinimum | quote }}
CF_GATE_MINIMUM_JUDGED: {{ include "counterfoil.text" .Values.thresholds.ratioJudgedMinimum | quote }}
{{- if .Values.rollout.enabled }}
CF_GATE_WINDOW_SECONDS: {{ include "counterfoil.gateWindow" . | quote }}
CF_GATE_SAMPLE: {{ include "counterfoil.text" .Values.rollout.gates.sample.judged | quote }}
CF_ROLLOUT_NAME: {{ include "counterfoil.rolloutName" . | quote }}
CF_REPAIR_AFTER_ABORT: {{ .Values.exporter.repairAfterAbort | quote }}
{{- end }}
{{- end -}}

{{- /*
The environment of one container, as a list. What is empty is left out: the process has a default for it.
Takes a dict: root, component (settingsOf, where it is told what another one is); role (key of database.keys, none: no database); settings (a dict, above those of the
component); further (the settings of the values, below them); secrets (a list of entries).
*/ -}}
{{- define "counterfoil.env" -}}
{{- $settings := dict -}}
{{- range list .root.Values.settings (.further | default dict) (include (printf "counterfoil.settings.%s" (.settingsOf | default .component)) .root | fromYaml) (.settings | default dict) -}}
  {{- range $name, $value := . -}}
    {{- $_ := set $settings $name (include "counterfoil.text" $value) -}}
  {{- end -}}
{{- end -}}
{{- with .role }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $.root.Values.database.existingSecret }}
      key: {{ get $.root.Values.database.keys . }}
{{- end }}
- name: CF_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- range $name, $value := $settings }}
{{- if ne $value "" }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with .secrets }}
{{ toYaml . }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
