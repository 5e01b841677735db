{{- /*
What jobs.defaults says with what a job says otherwise, as YAML. Written out, since Helm's own merge takes a 0 for
nothing. Takes a dict: root, overrides.
*/ -}}
{{- define "counterfoil.jobOptions" -}}
{{- $options := dict -}}
{{- range list .root.Values.jobs.defaults (.overrides | default dict) -}}
  {{- range $name, $value := . -}}{{- $_ := set $options $name $value -}}{{- end -}}
{{- end -}}
{{- toYaml $options -}}
{{- end -}}

{{- /*
The spec of a Job. Exit 2 says that a retry cannot help; a pod that had to give way is no attempt.
Takes the dict of counterfoil.podSpec and with it: options (a dict), activeDeadlineSeconds, podMetadata (a dict for the
labels; may be left out).
*/ -}}
{{- define "counterfoil.jobSpec" -}}
backoffLimit: {{ int .options.backoffLimit }}
activeDeadlineSeconds: {{ int64 .activeDeadlineSeconds }}
{{- $ttl := .options.ttlSecondsAfterFinished }}
{{- if not (kindIs "invalid" $ttl) }}
ttlSecondsAfterFinished: {{ int64 $ttl }}
{{- end }}
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes:
        containerName: {{ .component }}
        operator: In
        values: [2]
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
template:
  metadata:
    {{- include "counterfoil.podMetadata" . | nindent 4 }}
  spec:
    {{- include "counterfoil.podSpec" (merge (dict "restartPolicy" "Never" "resources" .options.resources) .) | nindent 4 }}
{{- end -}}

{{- /* A CronJob. Takes the dict of counterfoil.podSpec and with it: name (job and mode), schedule, activeDeadlineSeconds, overrides. */ -}}
{{- define "counterfoil.cronJob" -}}
{{- $options := include "counterfoil.jobOptions" . | fromYaml -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "counterfoil.cronJobName" (dict "root" .root "job" .name) }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "counterfoil.labels" . | nindent 4 }}
spec:
  schedule: {{ .schedule | quote }}
  timeZone: {{ $options.timeZone }}
  suspend: {{ $options.suspend }}
  # Two at once would only wait for each other's lease.
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {{ int64 $options.startingDeadlineSeconds }}
  successfulJobsHistoryLimit: {{ int $options.successfulJobsHistoryLimit }}
  failedJobsHistoryLimit: {{ int $options.failedJobsHistoryLimit }}
  jobTemplate:
    metadata:
      labels:
        {{- include "counterfoil.labels" . | nindent 8 }}
    spec:
      {{- include "counterfoil.jobSpec" (merge (dict "options" $options) .) | nindent 6 }}
{{- end -}}
