{{- /* The bearer token of the service's admin endpoints, as entries of an environment. */ -}}
{{- define "counterfoil.replayToken" -}}
{{- if not .Values.service.republishFunction -}}
- name: CF_REPLAY_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.token.existingSecret }}
      key: {{ .Values.token.key }}
{{- end -}}
{{- end -}}

{{- /* The bearer token of the service's public interface, as entries of an environment. */ -}}
{{- define "counterfoil.probeToken" -}}
{{- with .Values.jobs.flowProbe.token -}}
{{- if .existingSecret -}}
- name: CF_PROBE_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What the ids of a probe are made from: the name of its Job, so that another attempt makes nothing twice. */ -}}
{{- define "counterfoil.probeSeed" -}}
- name: CF_PROBE_SEED
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['batch.kubernetes.io/job-name']
{{- end -}}

{{- /* The Service through which events are replayed: while a canary runs, none of them goes to it. */ -}}
{{- define "counterfoil.replayService" -}}
{{- if .Values.rollout.enabled -}}
{{- include "counterfoil.stableService" . -}}
{{- else -}}
{{- .Values.service.name -}}
{{- end -}}
{{- end -}}
